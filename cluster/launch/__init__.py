"""Sending a run elsewhere: Ray jobs and KubeRay manifests."""
