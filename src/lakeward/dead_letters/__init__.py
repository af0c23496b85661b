"""Dead letters: records that cannot become rows, kept beside their table with what they said and why (PROTOCOL 8)."""
