"""Made-up requests, for as long as you like: `python -m fuzz --minutes 5`."""
