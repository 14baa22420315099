"""Where the checkout is, for tests at any depth."""

from configs.paths import ROOT as ROOT
