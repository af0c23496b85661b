"""Where records come from; the only place that knows a broker."""
