-- A small shop with the column types that trip movers of data.
CREATE TYPE order_status AS ENUM ('new', 'paid', 'sent', 'returned');
CREATE DOMAIN euro AS numeric(12, 2) CHECK (VALUE >= 0);

CREATE TABLE customers (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    email varchar(80),
    born date,
    score double precision,
    tags text[],
    profile jsonb,
    token uuid NOT NULL,
    "Élève d'été" boolean,
    updated_at timestamptz NOT NULL
);
INSERT INTO customers
SELECT n,
       'Customer ' || n || CASE n % 7 WHEN 0 THEN ' – Żółć' WHEN 1 THEN E' "quoted"\n' ELSE '' END,
       CASE WHEN n % 9 <> 0 THEN 'c' || n || '@example.com' END,
       CASE n % 50 WHEN 0 THEN date '1887-04-01' WHEN 1 THEN NULL ELSE date '1950-01-01' + (n * 37 % 20000)::int END,
       CASE n % 40 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n / 7.0 END::float8,
       CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['a' || n % 3, NULL, 'x,y'] END::text[],
       CASE WHEN n % 6 <> 0 THEN jsonb_build_object('level', n % 4, 'note', CASE WHEN n % 8 = 0 THEN 'ü' END) END,
       md5('customer' || n)::uuid,
       CASE n % 3 WHEN 0 THEN NULL ELSE n % 2 = 0 END,
       timestamptz '2026-01-01 00:00+00' + n * interval '1.000001 second'
FROM generate_series(1, 20000) AS n;

CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    status order_status NOT NULL,
    total euro NOT NULL,
    rate numeric,
    placed_at timestamp NOT NULL,
    valid daterange,
    ship_after interval,
    picked_at time,
    signature bytea,
    updated_at timestamptz NOT NULL
);
INSERT INTO orders
SELECT n,
       n % 20000 + 1,
       (ARRAY['new', 'paid', 'sent', 'returned'])[n % 4 + 1]::order_status,
       (n % 100000) / 100.0,
       CASE n % 30 WHEN 0 THEN 'NaN' WHEN 1 THEN NULL ELSE n / 3.0 END::numeric,
       timestamp '1899-12-31 23:59:59.999999' + n * interval '31 hours',
       CASE WHEN n % 4 = 0 THEN daterange('2026-01-01', CASE WHEN n % 8 = 0 THEN NULL ELSE date '2026-06-01' END) END,
       make_interval(months => (n % 5)::int, days => (n % 3)::int, secs => n % 100 + 0.5),
       CASE WHEN n % 11 <> 0 THEN time '00:00' + (n % 86400) * interval '1 second' END,
       CASE WHEN n % 13 = 0 THEN decode(md5(n::text), 'hex') END,
       timestamptz '2026-01-02 00:00+00' + n * interval '1 second'
FROM generate_series(1, 80000) AS n;

CREATE TABLE "Order lines" (
    order_id bigint,
    line smallint,
    product char(8),
    quantity integer NOT NULL,
    price numeric(10, 4),
    gift bool DEFAULT false,
    amount numeric(20, 4) GENERATED ALWAYS AS (quantity * price) STORED,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (order_id, line)
);
INSERT INTO "Order lines" (order_id, line, product, quantity, price, gift, updated_at)
SELECT n / 3 + 1, n % 3, 'P' || n % 500, n % 9 + 1,
       CASE WHEN n % 17 <> 0 THEN (n % 99999) / 10000.0 END, n % 5 = 0,
       timestamptz '2026-01-02 00:00+00' + n * interval '0.5 second'
FROM generate_series(0, 149999) AS n;
ANALYZE;
