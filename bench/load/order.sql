\set user random(1, 1000)
\set sku random(1, 10000)
\set key random(1, 9000000000000000000)
BEGIN;
INSERT INTO keys (key, fingerprint) VALUES ('bench-' || :key::bigint, '\xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') ON CONFLICT DO NOTHING;
UPDATE stock SET quantity = quantity - 1 WHERE sku = :sku AND quantity >= 1;
INSERT INTO orders (user_id, sku, quantity, status) VALUES (:user, :sku, 1, 'new') RETURNING id \gset order_
INSERT INTO outbox (topic, payload) VALUES ('order.placed', '{"id":' || :order_id::bigint || ',"user_id":' || :user::int || ',"sku":' || :sku::int || ',"quantity":1,"status":"new"}');
UPDATE keys SET status = 201, answer = convert_to('{"id":' || :order_id::bigint || ',"user_id":' || :user::int || ',"sku":' || :sku::int || ',"quantity":1,"status":"new"}', 'UTF8') WHERE key = 'bench-' || :key::bigint;
END;
