-- When the registration of a certificate's key ends, whatever the certificate says: whoever has the key can put a
-- certificate of his own with later dates around it. NULL for never.
ALTER TABLE account_certificate ADD COLUMN until REAL;
