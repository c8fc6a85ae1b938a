"""Mathematics of secrets; knows no parties and no tables."""
