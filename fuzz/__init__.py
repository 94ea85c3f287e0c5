"""Made-up requests, for as long as you like: `python -m fuzz run --minutes 5`."""
