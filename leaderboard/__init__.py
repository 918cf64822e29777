"""From stored certificates to tables. Reads evidence and specs; never imports torch."""
