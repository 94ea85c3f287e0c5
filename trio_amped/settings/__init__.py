"""The settings that a program is started with: where they come from, and what they come to."""
