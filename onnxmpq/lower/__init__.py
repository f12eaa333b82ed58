"""The only code that writes quantised graphs."""
