"""Many registrations: jobs on warm processes or a cluster, whole result folders, reports."""
