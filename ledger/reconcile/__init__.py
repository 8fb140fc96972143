"""Reconciliation: the same usage in every book that holds it, compared, reported, and put right without billing twice.

Books, from the request to the money: *counters* (Redis, per quota period) = *events* = *hourly* and *daily* rollups;
for billed meters further = *slots* (counted) = *entries* (sealed); entries that are sent = *stripe*'s own sums. Figures
are per project, mode, customer and meter; differences (*drift*) are found where they are: per hour, or per counter.

Repairs, one for each kind of drift (repair). None of them makes Stripe count anything a second time:

    counters         set to what was used, as long as they are there
    hourly, daily    made again from the events
    slots            counted is set to the events; what that changes is sealed as a further entry, or a credit
    entries          sealed is raised to the entries that are there; entries that are missing are a person's affair, as
                     they may have been sent
    stripe has less  entries that its sums lack are made again under a new identifier, after a day
    stripe has more  the excess counts as sent, and is netted as a credit
    credits          what could not be netted in its period is reported, for a credit note

How it fails: Redis or Stripe away leave their part out of the report, which says so. The rest is one snapshot.
"""
