"""The controller: autoscaler, collector and reconciler, of which exactly one acts and any number stand by.

`python -m web_tier.controller` contends for a lease in the job table (`leadership`). The holder runs three
loops: the autoscaler launches workers, the collector turns responses into results, the reconciler finds what fell
between.
"""
