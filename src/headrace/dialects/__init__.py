"""Other people's REST APIs, each spoken over the one domain model: they translate, and decide nothing."""
