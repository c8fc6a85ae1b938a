"""Tables: what a party knows about people, as typed, immutable columns; how files become tables, and what they must be.

``schema`` names and types columns, ``table`` holds them, ``readers`` turns CSV and Parquet files into tables and says
exactly what is wrong with a file (``import_report``), ``demo`` ships real credit data split between two parties.
"""
