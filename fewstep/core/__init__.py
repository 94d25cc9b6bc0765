"""The method and its vocabulary: Algorithm 1, losses, tasks, problems, and checks of inputs."""
