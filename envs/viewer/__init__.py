"""Shows an environment to people: terminal play, an HTML gallery, a contact sheet."""
