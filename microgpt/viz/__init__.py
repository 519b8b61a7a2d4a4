"""Pictures and tables of runs and models. Nothing here is imported before something is drawn."""
