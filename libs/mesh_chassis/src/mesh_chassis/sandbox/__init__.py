"""Programs that nobody should trust, in bubblewrap: namespaces, seccomp, cgroup or rlimits."""
