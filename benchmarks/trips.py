"""The table all sides load: 17 columns of mixed types, the same rows every time."""

TABLE = """
CREATE TABLE trips AS
SELECT n AS id, (n % 7)::int AS vendor, '2026-01-01'::timestamp + n * interval '1 s' AS started,
       '2026-01-01Z'::timestamptz + n * interval '1 s' AS ended, (n % 5)::smallint AS riders,
       n / 3.0::float8 AS distance, (n % 6)::int AS rate, n % 3 = 0 AS stored,
       (n % 250)::int AS place, (n * 7 % 250)::int AS goal,
       (n * 7919 % 9999999 / 100.0)::numeric(12, 2) AS fare,
       (n * 104729 % 77777 / 100.0)::numeric(12, 2) AS tip,
       (n * 13 % 7777777 / 100.0)::numeric(12, 2) AS total,
       '2026-01-01'::date + (n % 365)::int AS day, 'kind ' || n % 4 AS paid,
       CASE WHEN n % 3 <> 0 THEN 'note number ' || n END AS note, n * 31 AS reference
FROM generate_series(1::bigint, {rows}) AS n
"""
