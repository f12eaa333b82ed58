"""From what was measured to a plan: the menu, the rounds of a search, the front, the forecast."""
