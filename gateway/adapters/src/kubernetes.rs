//! A Kubernetes cluster, by server-side apply.
