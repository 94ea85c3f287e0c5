"""Runs targets for minutes or hours, and keeps and tells what that found."""
