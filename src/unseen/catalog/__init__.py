"""The built-in components, one thin module each; they are found through entry points, as anybody's are."""
