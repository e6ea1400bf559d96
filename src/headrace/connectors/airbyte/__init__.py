"""Sources that speak the Airbyte protocol: installed at run time, each in an environment of its own."""
