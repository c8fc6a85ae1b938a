"""The secure linear map Mᵀv: one party holds the integer matrix M, another the integer vectors v."""
