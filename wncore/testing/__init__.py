"""The conformance suite, shipped so that any backend can be certified: ``wncore certify NAME``.

`contracts` says for each operation what is drawn and how an answer is judged by the budget of `wncore.tolerance`,
`conformance` holds the tests, `plugin` the options of pytest, `certificate` what is written down. Needs pytest and
hypothesis: ``pip install 'wncore[testing]'``.
"""
