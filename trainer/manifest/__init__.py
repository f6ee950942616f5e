"""A run as Kubernetes runs it: manifests from the plan, and what is wrong with manifests that people have changed."""
