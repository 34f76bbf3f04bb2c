"""What tests share: media, stores, projects, and programs that are killed. `from helpers.media import ...`."""
