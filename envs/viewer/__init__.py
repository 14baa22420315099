"""Looking at an environment: terminal play, an HTML gallery, a contact sheet."""
