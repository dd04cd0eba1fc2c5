"""CloudFormation of the embedded cloud: stacks whose resources are made by calling the cloud's own services.

moto's CloudFormation makes resources behind its services' backs, knows no order of updates, no rollback, no events of
resources and no outputs of change sets, and needs forty packages more to be imported. This one is smaller, and right
for what a stack of Fleetsight does: a template is read (`template`), its parameters checked (`parameters`), its
functions evaluated (`functions`), what must change found (`plan`) and done in order or undone (`engine`), by kinds of
resources (`kinds`) that make the calls which anybody would make.
"""
