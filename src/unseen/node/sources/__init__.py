"""Databases and buckets of the organisation from which its node takes tables: named by whoever runs the machine."""
