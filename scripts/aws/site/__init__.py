"""``site``: the front end as static files, exported and published."""
