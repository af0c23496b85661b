"""Where rows go: one folder a table format, the only places that know one."""
