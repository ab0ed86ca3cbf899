"""Our own node agent as nodes of a real control plane: pods really run under real controllers and the real scheduler, without images."""
