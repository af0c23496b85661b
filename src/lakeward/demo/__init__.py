"""The demo: a market, a writer that is killed, and a proof that nothing was lost. Nothing here prints."""
