"""The agent's link to the workspace: one outbound connection; desired objects come down it, reports go up. Workloads do not notice when it is cut."""
