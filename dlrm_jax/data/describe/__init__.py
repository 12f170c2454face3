"""Describes a prepared data set: its numbers (inventory, frequency), tables, figures and page."""
