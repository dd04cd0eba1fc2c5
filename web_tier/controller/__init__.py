"""The controller: autoscaler, collector and reconciler; exactly one controller acts, any others stand by.

`python -m web_tier.controller` contends for a lease in the job table (`leader`). Its holder runs these loops: the
autoscaler sizes the fleet (`web_tier.autoscaler`), the collector turns responses into results, the reconciler finds
images that were lost between two steps, and the results files, the cleanup and the expiry look after finished jobs.
"""
