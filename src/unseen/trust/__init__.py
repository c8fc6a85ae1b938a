"""The trust kernel: what decides whether a job may run between organisations that do not trust each other.

An **agreement**, signed by all parties, says what may be done. Each data owner's node issues a **grant** for one job
after its own check, and each message carries a **proof** of its place in it. Budgets are debited before anything
leaves, every decision is a record in a chained **audit** trail, and a **journal** says where a job stands. What is not
allowed in words is refused.

Everything here is pure but ``store``, which keeps lines durably.
"""
