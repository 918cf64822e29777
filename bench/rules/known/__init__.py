"""One rule a file. Each assigns its class to `RULE`; `bench.rules.rule.Rule` says what it has to answer."""
