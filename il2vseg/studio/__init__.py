"""il2vseg studio: from footage to a named, distilled, exported model on one page.

`project` keeps everything on disk, `session` is what a person decided (names, divisions, clicks) as a list of
steps that can be undone, `desk` computes what the page shows of clusters, `jobs` runs the other commands,
`server` answers the page. Nothing here computes what the other packages do not.
"""
