"""Say in a sentence what each feature of a dictionary responds to, and measure how true that is.

    fragments.py            pieces of held-out text with the activations of a feature: some to explain, some to score on
    explain.py              a sentence, from a model on a server
    simulate.py             the activations that the sentence lets a model expect
    detect.py, intruder.py  yes-or-no questions about the sentence, and about the fragments alone
    interpreted.py          what comes of it, whoever explains and scores
    llm.py                  all of these for many features: `check`, `estimate`, `interpret`

    servers.py, access.py   which server and which models; how fast and for how much
    client.py               the requests: pace, budget, retries, and every reply kept on disk
    modes.py                what a server can do; found out by asking
    prompts.py, answers.py  what is sent, and what comes back

An evaluation gives `interpret` the fragments of its features and gets, for each, the explanation and the raw outcome of
every scorer: simulated values for the top fragments and then the random ones, with null where none was given. The
correlations are made of these, as they are of the simulations that need no server.
"""
