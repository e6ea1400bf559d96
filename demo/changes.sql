-- A morning at the shop.
UPDATE orders SET status = 'sent', updated_at = now() WHERE id % 16 = 0;
UPDATE customers SET name = upper(name), score = NULL, updated_at = now() WHERE id BETWEEN 500 AND 1500;
INSERT INTO orders (id, customer_id, status, total, placed_at, updated_at)
SELECT n, n % 20000 + 1, 'new', 19.99, localtimestamp, now() FROM generate_series(80001, 81000) AS n;
INSERT INTO "Order lines" (order_id, line, product, quantity, price, updated_at)
SELECT n, 0, 'P1', 2, 9.995, now() FROM generate_series(80001, 81000) AS n;
