import { execFile } from 'node:child_process';
import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import {
  ConfigInvalid,
  describeConfig,
  readConfig,
  readKafkaConfig,
  settingNames,
} from '#src/config.ts';
import { userOf } from '#src/database/database-url.ts';
import { kafkaConnection } from '#src/outbox/kafka-connection.ts';
import { createAuthority } from '#test/support/certificates.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

const DATABASE_URL = 'postgres://user:password@host:5432/database';

describe.each(['PAYMENT_CONTRACT', 'SHIPPING_CONTRACT'] as const)('the setting %s', (name) => {
  test('is version 2 of the contract unless it is told otherwise', () => {
    expect(readConfig({ DATABASE_URL })[name]).toBe(2);
    expect(readConfig({ DATABASE_URL, [name]: '2' })[name]).toBe(2);
    expect(readConfig({ DATABASE_URL, [name]: '1' })[name]).toBe(1);
    expect(describeConfig({})).toMatch(new RegExp(`^${name} +2 +default +Version of the`, 'm'));
  });

  test.each(['0', '3', 'v2', '1.0', ' 1'])('is refused as %j', (version) => {
    expect(problemsOf({ DATABASE_URL, [name]: version })).toEqual([`${name}: must be 1 or 2`]);
  });
});

describe('the URL of the database', () => {
  test.each([
    DATABASE_URL,
    'postgresql://host/database',
    `${DATABASE_URL}?sslmode=verify-full&sslrootcert=${import.meta.filename}`,
    'postgres:///database?host=/run/postgresql',
    'postgres://user:password@one:5432,two:5433,[::1]/database?target_session_attrs=read-write',
    'postgres:///database?host=one,two&port=5432,5433',
    `${DATABASE_URL}?sslmode=require`,
    `${DATABASE_URL}?sslmode=verify-full&sslrootcert=system`,
    `${DATABASE_URL}?sslmode=verify-ca&sslrootcert=${import.meta.filename}`,
  ])('may say where it is and how to trust it: %s', (url) => {
    expect(readConfig({ DATABASE_URL: url }).DATABASE_URL).toBe(url);
  });

  test.each([
    'options=-c%20synchronous_commit%3Doff',
    'statement_timeout=0',
    'lock_timeout=0',
    'idle_in_transaction_session_timeout=0',
    'query_timeout=0',
    'application_name=mine',
    'sslmode=require&options=-c%20work_mem%3D1GB',
  ])('may not set the sessions, which the service sets itself: ?%s', (query) => {
    expect(problemsOf({ DATABASE_URL: `${DATABASE_URL}?${query}` })).toEqual([
      expect.stringMatching(/^DATABASE_URL: may hold host, port, ssl.* in its query, nothing else/),
    ]);
  });

  test.each([
    ['sslmode=prefer', /sslmode must be disable, require, .* fall back to plaintext/],
    ['sslmode=allow', /fall back to plaintext/],
    ['sslmode=verify-ca', /sslmode=verify-ca needs sslrootcert/],
    ['sslmode=require&sslrootcert=system', /sslrootcert=system needs sslmode=verify-full/],
    [`sslcert=${import.meta.filename}`, /sslcert and sslkey must be set together/],
    ['target_session_attrs=any', /must be read-write/],
  ])('may not trust a server less than it seems, or use a standby: ?%s', (query, reason) => {
    expect(problemsOf({ DATABASE_URL: `${DATABASE_URL}?${query}` })).toEqual([
      expect.stringMatching(reason),
    ]);
  });

  test.each([
    ['us%40er', 'us@er'],
    ['us%er', 'us%er'],
  ])('may have a user with a percent sign: %s', (user, name) => {
    expect(userOf(`postgres://${user}:secret@one,two/database`)).toBe(name);
  });

  test.each([
    'postgres:secret',
    'postgres://one,,two/database',
    'postgres:///database',
    'postgresql:user@host/database',
  ])('names a host, not %s', (url) => {
    expect(problemsOf({ DATABASE_URL: url })).toEqual([
      expect.stringMatching(/^DATABASE_URL: must name a host/),
    ]);
  });

  test.each(['sslrootcert', 'sslcert', 'sslkey'])('names a %s that can be read', (name) => {
    expect(problemsOf({ DATABASE_URL: `${DATABASE_URL}?${name}=/nowhere/ca.pem` })).toEqual([
      `DATABASE_URL: names a file that cannot be read: ${name}=/nowhere/ca.pem`,
    ]);
  });

  test.each(['mysql://host/database', 'host/database'])('is one of Postgres, not %s', (url) => {
    expect(problemsOf({ DATABASE_URL: url })).toEqual(['DATABASE_URL: must be a postgres:// URL']);
  });
});

describe('the keys of the identity provider', () => {
  const trust = { JWT_ISSUER: 'https://id.example/', JWT_AUDIENCE: 'orders' };

  test.each([
    'https://id.example/jwks',
    'https://id.example/keys?policy=1',
    'http://127.0.0.1:8080/jwks',
    'http://localhost/jwks',
    'http://[::1]/jwks',
  ])('may be at %s', (JWT_JWKS_URL) => {
    expect(readConfig({ DATABASE_URL, JWT_JWKS_URL, ...trust })).toMatchObject({
      JWT_JWKS_URL,
      ...trust,
      JWT_CUSTOMER_CLAIM: 'sub',
      JWT_AGE_MAX_S: 86_400,
    });
  });

  test.each([
    'http://id.example/jwks',
    'http://127.0.0.1.example/jwks',
    'http://10.0.0.1/jwks',
    'https://user:password@id.example/jwks',
    'https://127.0.0.1@id.example/jwks',
    'file:///etc/jwks.json',
    'id.example/jwks',
  ])('may not be at %s, where others could replace them', (JWT_JWKS_URL) => {
    expect(problemsOf({ JWT_JWKS_URL, ...trust })).toEqual([
      expect.stringMatching(/^JWT_JWKS_URL: must be a https:\/\/ URL/),
    ]);
  });

  test('need an issuer and an audience, and these need keys', () => {
    expect(problemsOf({ JWT_JWKS_URL: 'https://id.example/jwks' })).toEqual([
      'JWT_ISSUER: is not set',
      'JWT_AUDIENCE: is not set',
    ]);
    expect(problemsOf({ JWT_ISSUER: 'https://id.example/' })).toEqual([
      'JWT_JWKS_URL: is not set',
      'JWT_AUDIENCE: is not set',
    ]);
    expect(problemsOf({})).toEqual([]);
  });
});

describe('a number', () => {
  test('is the given value, or the default if none is given', () => {
    expect(readConfig({ DATABASE_URL, PORT: '8080', OUTBOX_MAX_ROWS: '16' })).toMatchObject({
      PORT: 8080,
      OUTBOX_MAX_ROWS: 16,
    });
    expect(readConfig({ DATABASE_URL, PORT: '' }).PORT).toBe(3000);
  });

  test.each([' ', '0x10', '1e3', '80.0', '-1', '+80', ' 80', '٣'])('is not %j', (PORT) => {
    expect(problemsOf({ PORT })).toEqual(['PORT: must be a whole number, in digits']);
  });

  test.each(['65536', '99999999999999999999'])('has bounds: %s', (PORT) => {
    expect(problemsOf({ PORT })).toEqual([expect.stringMatching(/^PORT: .*65535/)]);
  });
});

describe('the brokers', () => {
  test.each(['kafka:9092', 'a:1,b-2.example:65535', '[::1]:9092'])('may be %s', (KAFKA_BROKERS) => {
    expect(readConfig({ DATABASE_URL, KAFKA_BROKERS }).KAFKA_BROKERS).toEqual(
      KAFKA_BROKERS.split(','),
    );
  });

  test.each(['a:1, b:2', 'a:1,b:2,', ' a:1 ,, b:2 '])('may be spaced: %j', (KAFKA_BROKERS) => {
    expect(readConfig({ DATABASE_URL, KAFKA_BROKERS }).KAFKA_BROKERS).toEqual(['a:1', 'b:2']);
    expect(readKafkaConfig({ KAFKA_BROKERS })).toMatchObject({
      KAFKA_BROKERS: ['a:1', 'b:2'],
      KAFKA_TOPIC: 'order.events',
    });
  });

  test.each(['kafka', 'kafka:0', 'kafka:65536', 'kafka:99999', '::1:9092', 'a:1,b'])(
    'may not be %s',
    (KAFKA_BROKERS) => {
      expect(problemsOf({ KAFKA_BROKERS })).toEqual([
        'KAFKA_BROKERS: must be host:port, comma separated',
      ]);
    },
  );
});

describe('the trusted proxies', () => {
  test('are none by default', () => {
    expect(readConfig({ DATABASE_URL }).TRUSTED_PROXIES).toEqual([]);
  });

  test.each(['10.0.0.0/8', '192.0.2.1, 2001:db8::/32', 'loopback,linklocal,uniquelocal'])(
    'may be %s',
    (TRUSTED_PROXIES) => {
      expect(readConfig({ DATABASE_URL, TRUSTED_PROXIES }).TRUSTED_PROXIES).toEqual(
        TRUSTED_PROXIES.split(/, ?/),
      );
    },
  );

  test.each(['true', '*', '1', 'proxy.example', '10.0.0.0/33', '10.0.0.1:80'])(
    'may not be %s',
    (TRUSTED_PROXIES) => {
      expect(problemsOf({ TRUSTED_PROXIES })).toEqual([
        'TRUSTED_PROXIES: must be addresses or networks such as 10.0.0.0/8, comma separated',
      ]);
    },
  );
});

describe('the login at the brokers', () => {
  const login = {
    KAFKA_BROKERS: 'kafka:9092',
    KAFKA_SASL_MECHANISM: 'scram-sha-512',
    KAFKA_SASL_USERNAME: 'orders',
    KAFKA_SASL_PASSWORD: 'secret',
  };

  test.each(['scram-sha-512', 'SCRAM-SHA-512'])('may be %s', (KAFKA_SASL_MECHANISM) => {
    const config = readConfig({ DATABASE_URL, ...login, KAFKA_SASL_MECHANISM });
    expect(kafkaConnection(config)).toEqual({
      brokers: ['kafka:9092'],
      sasl: { mechanism: 'scram-sha-512', username: 'orders', password: 'secret' },
    });
  });

  test('goes with either library, and with no other', () => {
    const client = (KAFKA_CLIENT: string) => problemsOf({ ...login, KAFKA_CLIENT });
    expect(client('nothing')).toEqual(['KAFKA_CLIENT: must be kafkajs or platformatic']);
    expect([client(''), client('kafkajs'), client('platformatic')]).toEqual([[], [], []]);
  });

  test('may not be another mechanism', () => {
    expect(problemsOf({ ...login, KAFKA_SASL_MECHANISM: 'gssapi' })).toEqual([
      'KAFKA_SASL_MECHANISM: must be plain, scram-sha-256 or scram-sha-512',
    ]);
  });

  test.each([
    ['KAFKA_SASL_MECHANISM', 'KAFKA_SASL_PASSWORD', 'KAFKA_SASL_USERNAME'],
    ['KAFKA_SASL_USERNAME', 'KAFKA_SASL_MECHANISM', 'KAFKA_SASL_PASSWORD'],
    ['KAFKA_SASL_PASSWORD', 'KAFKA_SASL_MECHANISM', 'KAFKA_SASL_USERNAME'],
  ])('is not complete without %s', (missing, ...given) => {
    const problems = problemsOf({ ...login, [missing]: '' });
    expect(problems.toSorted()).toEqual(given.map((name) => `${name}: needs ${missing}`));
  });

  test.each([
    [{ KAFKA_TLS: 'on' }, true],
    [{ KAFKA_BROKERS: '127.0.0.1:9092,localhost:9093,[::1]:9094' }, true],
    [{ KAFKA_SASL_MECHANISM: 'scram-sha-256' }, true],
    [{}, false],
    [{ KAFKA_BROKERS: '127.0.0.1:9092,127.0.0.1.example.com:9092' }, false],
  ])('never sends a readable password over the network: %j', (more, isAllowed) => {
    expect(problemsOf({ ...login, KAFKA_SASL_MECHANISM: 'plain', ...more })).toEqual(
      isAllowed
        ? []
        : [
            'KAFKA_SASL_MECHANISM: would send the password readable over the network: set KAFKA_TLS=on',
          ],
    );
  });
});

describe('TLS to the brokers', () => {
  test('takes the files of an authority, a certificate and its key', async () => {
    await using folder = await createTestFolder('certificates-');
    const authority = await createAuthority(folder.path, 'ca');
    const [own, other] = [await authority.sign('orders'), await authority.sign('other')];
    const tls = {
      KAFKA_TLS: 'on',
      KAFKA_TLS_CA_FILE: authority.caFile,
      KAFKA_TLS_CERT_FILE: own.certFile,
      KAFKA_TLS_KEY_FILE: own.keyFile,
    };
    const config = readConfig({ DATABASE_URL, KAFKA_BROKERS: 'kafka:9092', ...tls });
    expect(kafkaConnection(config)).toEqual({
      brokers: ['kafka:9092'],
      tls: { caFile: authority.caFile, certFile: own.certFile, keyFile: own.keyFile },
    });
    expect(problemsOf({ ...tls, KAFKA_TLS_KEY_FILE: other.keyFile })).toEqual([
      'KAFKA_TLS_KEY_FILE: is not the key of KAFKA_TLS_CERT_FILE',
    ]);
    expect(problemsOf({ ...tls, KAFKA_TLS_KEY_FILE: '' })).toEqual([
      'KAFKA_TLS_CERT_FILE: needs KAFKA_TLS_KEY_FILE',
    ]);
    expect(problemsOf({ ...tls, KAFKA_TLS_CERT_FILE: '' })).toEqual([
      'KAFKA_TLS_KEY_FILE: needs KAFKA_TLS_CERT_FILE',
    ]);
    expect(problemsOf({ ...tls, KAFKA_TLS: 'off' })).toEqual([
      'KAFKA_TLS_CA_FILE: needs KAFKA_TLS=on',
      'KAFKA_TLS_CERT_FILE: needs KAFKA_TLS=on',
      'KAFKA_TLS_KEY_FILE: needs KAFKA_TLS=on',
    ]);
  });

  test('names a file that cannot be used, and why', async () => {
    await using folder = await createTestFolder('certificates-');
    const authority = await createAuthority(folder.path, 'ca');
    const { certFile, keyFile } = await authority.sign('orders');
    const encrypted = join(folder.path, 'encrypted.key');
    const passphrase = ['-aes256', '-passout', 'pass:secret'];
    const encrypting = ['pkey', '-in', keyFile, ...passphrase, '-out', encrypted];
    await promisify(execFile)('openssl', encrypting);
    const damaged = join(folder.path, 'damaged.pem');
    const [begin, end] = ['-----BEGIN CERTIFICATE-----', '-----END CERTIFICATE-----'];
    await writeFile(damaged, `${begin}\nMIIB\n${end}\n`);
    const problem = (file: Readonly<Record<string, string>>) =>
      problemsOf({ KAFKA_TLS: 'on', ...file });
    const pair = { KAFKA_TLS_CERT_FILE: certFile, KAFKA_TLS_KEY_FILE: keyFile };
    expect(problem({ KAFKA_TLS_CA_FILE: '/nowhere/ca.pem' })).toEqual([
      expect.stringMatching(/^KAFKA_TLS_CA_FILE: names a file that cannot be read .ENOENT.$/),
    ]);
    expect(problem({ KAFKA_TLS_CA_FILE: keyFile })).toEqual([
      'KAFKA_TLS_CA_FILE: holds no certificate in PEM format',
    ]);
    expect(problem({ KAFKA_TLS_CA_FILE: damaged })).toEqual([
      expect.stringMatching(/^KAFKA_TLS_CA_FILE: is not valid PEM: /),
    ]);
    expect(problem({ ...pair, KAFKA_TLS_KEY_FILE: certFile })).toEqual([
      'KAFKA_TLS_KEY_FILE: holds no private key in PEM format',
    ]);
    expect(problem({ ...pair, KAFKA_TLS_KEY_FILE: encrypted })).toEqual([
      'KAFKA_TLS_KEY_FILE: holds an encrypted key: decrypt it with openssl pkey',
    ]);
  });
});

describe('AUTH=off', () => {
  test.each(['127.0.0.1', '127.9.9.9', '::1', 'localhost', '::ffff:127.0.0.1'])(
    'is accepted on the loopback address %s',
    (HOST) => {
      expect(readConfig({ DATABASE_URL, AUTH: 'off', HOST }).AUTH).toBe(false);
    },
  );

  test.each([
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '128.0.0.1',
    '127.1',
    'shop.example',
    'localhost.example',
  ])('is refused on %s, unless it is said to be meant', (HOST) => {
    expect(problemsOf({ AUTH: 'off', HOST })).toEqual([
      expect.stringMatching(/^AUTH: .*AUTH_OFF_ON_NETWORK=on$/),
    ]);
    expect(readConfig({ DATABASE_URL, AUTH: 'off', AUTH_OFF_ON_NETWORK: 'on', HOST }).AUTH).toBe(
      false,
    );
  });

  test('must be said', () => {
    expect(readConfig({ DATABASE_URL }).AUTH).toBe(true);
  });
});

test('every setting is listed with its default', () => {
  const text = describeConfig();
  expect(text).toMatch(/^PORT +3000 /m);
  expect(text).toMatch(/^RELAY +on /m);
  expect(text).toMatch(/^DATABASE_URL +required /m);
  expect(text).toMatch(/^TEST_INFRA .*docker, embedded or none/m);
});

describe('the origins of pages', () => {
  test('are compared as a whole, so they are listed as browsers send them', () => {
    const CORS_ORIGINS = 'https://shop.example, http://localhost:5173';
    expect(readConfig({ DATABASE_URL, CORS_ORIGINS }).CORS_ORIGINS).toEqual([
      'https://shop.example',
      'http://localhost:5173',
    ]);
  });

  test.each(['*', 'null', 'shop.example', 'https://shop.example/', 'https://shop.example:443'])(
    'may not be %s',
    (CORS_ORIGINS) => {
      expect(problemsOf({ CORS_ORIGINS })).toEqual([
        'CORS_ORIGINS: must be origins such as https://shop.example, comma separated',
      ]);
    },
  );
});

describe('the page of an order', () => {
  test.each([
    'https://shop.example/orders/{orderId}',
    'https://shop.example:8443/orders?id={orderId}',
    'http://localhost:5173/#/orders/{orderId}/{orderId}',
    '',
  ])('may be %s', (ORDER_PAGE_URL) => {
    expect(readConfig({ DATABASE_URL, ORDER_PAGE_URL }).ORDER_PAGE_URL).toBe(ORDER_PAGE_URL);
  });

  test.each([
    'https://shop.example/orders/',
    'https://shop.example/orders/{id}',
    'https://{orderId}.shop.example/',
    'https://{orderId}/',
    'https://shop.example{orderId}/',
    'https://me:secret@shop.example/{orderId}',
    'https://shop.example/{customerId}/{orderId}',
    'https://shop.example/a b/{orderId}',
    'javascript:alert({orderId})',
    '/orders/{orderId}',
  ])('may not be %s', (ORDER_PAGE_URL) => {
    expect(problemsOf({ ORDER_PAGE_URL })).toEqual([
      'ORDER_PAGE_URL: must be a https:// or http:// URL with {orderId} behind the host',
    ]);
  });
});

describe('a secret', () => {
  test('can be given as a file, without the end of its last line', async () => {
    await using url = await fileOf(`${DATABASE_URL}\n`);
    await using key = await fileOf('k-1\r\n');
    const env = { DATABASE_URL_FILE: url.path, PAYMENT_API_KEY_FILE: key.path };
    expect(readConfig(env)).toMatchObject({ DATABASE_URL, PAYMENT_API_KEY: 'k-1' });
    expect(problemsOf({ DATABASE_URL: '', ...env })).toEqual([]);
  });

  test('is given either as a variable or as a file', async () => {
    await using key = await fileOf('k-1');
    expect(problemsOf({ PAYMENT_API_KEY: 'k-2', PAYMENT_API_KEY_FILE: key.path })).toEqual([
      'PAYMENT_API_KEY_FILE: must not be set if PAYMENT_API_KEY is set',
    ]);
  });

  test('is refused if its file says nothing, is no file, or is not valid', async () => {
    await using empty = await fileOf('\n');
    await using url = await fileOf('mysql://host/database');
    await using key = await fileOf('ü');
    const nowhere = `${empty.path}-no`;
    expect(problemsOf({ DATABASE_URL: '', DATABASE_URL_FILE: empty.path })).toEqual([
      'DATABASE_URL_FILE: names a file that is empty',
    ]);
    expect(
      problemsOf({
        DATABASE_URL: '',
        DATABASE_URL_FILE: nowhere,
        SHIPPING_API_KEY_FILE: tmpdir(),
        PAYMENT_API_KEY_FILE: '/dev/zero',
      }),
    ).toEqual([
      'DATABASE_URL_FILE: names a file that cannot be read (ENOENT)',
      'PAYMENT_API_KEY_FILE: names a file that is too large',
      'SHIPPING_API_KEY_FILE: names a file that cannot be read (EISDIR)',
    ]);
    const wrong = { DATABASE_URL: '', DATABASE_URL_FILE: url.path };
    expect(problemsOf({ ...wrong, PAYMENT_API_KEY_FILE: key.path })).toEqual([
      'DATABASE_URL_FILE: must be a postgres:// URL',
      expect.stringMatching(/^PAYMENT_API_KEY_FILE: contains a character/),
    ]);
  });

  test('has a setting whose name sounds like one, and only settings that are marked have a file', () => {
    const sounding = settingNames.filter((name) =>
      /(PASSWORD|SECRET|TOKEN|API_KEY|DATABASE_URL)$/.test(name),
    );
    expect(sounding).toEqual(
      expect.arrayContaining(['DATABASE_URL', 'KAFKA_SASL_PASSWORD', 'PAYMENT_API_KEY']),
    );
    expect(sounding.filter((name) => !settingNames.includes(`${name}_FILE`))).toEqual([]);
    expect(settingNames).not.toContain('PORT_FILE');
    expect(readConfig({ DATABASE_URL, PORT_FILE: '/nowhere' }).PORT).toBe(3000);
  });

  test.each([
    ['postgres://user:s3cret@host/db', 'postgres://user:****@host/db'],
    ['postgres://user:s3#cret@host/db', 'postgres://user:****@host/db'],
    ['postgres://user:s3@cret@host/db', 'postgres://user:****@host/db'],
    ['postgres://user:s3/cret@host/db', 'postgres://user:****@host/db'],
    ['postgres:user:s3cret@host/db', 'postgres:user:****@host/db'],
    ['postgres://user@host/db?host=a:b', 'postgres://user@host/db?host=a:b'],
    ['postgres://us@er:s3cret@host/db', 'postgres://us@er:****@host/db'],
    ['postgres://user:s3cret@[::1]:1,two:2/db', 'postgres://user:****@[::1]:1,two:2/db'],
    ['postgres://user:s3cret', '****'],
    ['postgres://host/db?user=me&password=s3cret', '****'],
    ['"postgres://user:s3cret@host/db"', '****'],
    ['postgres+ssl://user:s3cret@host/db', '****'],
    ['user:s3cret@host/db', '****'],
    ['host=db user=me password=s3cret', '****'],
  ])('is masked in the list of settings and in errors: %s', async (url, shown) => {
    await using file = await fileOf(url);
    for (const env of [{ DATABASE_URL: url }, { DATABASE_URL_FILE: file.path }]) {
      expect(describeConfig(env)).toContain(`DATABASE_URL             ${shown} `);
      expect(problemsOf({ DATABASE_URL: '', ...env }).join('\n')).not.toMatch(/s3|cret/);
    }
  });

  test('is not repeated if it is given where the path of its file belongs', () => {
    const text = 'postgres://user:s3cret@host/db';
    const key = '-----BEGIN PRIVATE KEY-----s3cret';
    const problems = [
      ...problemsOf({ DATABASE_URL: '', DATABASE_URL_FILE: text }),
      ...problemsOf({ KAFKA_TLS: 'on', KAFKA_TLS_CERT_FILE: '/', KAFKA_TLS_KEY_FILE: key }),
    ];
    expect(problems).toHaveLength(3);
    expect(problems.join()).not.toContain('s3cret');
    expect(describeConfig({ DATABASE_URL_FILE: text })).not.toContain('s3cret');
  });

  test.each(['PAYMENT_URL', 'JWT_JWKS_URL'])('is not listed if it is in %s', (name) => {
    const text = describeConfig({ [name]: 'https://user:s3/cret@host/path' });
    expect(text).toMatch(new RegExp(`^${name} +https://\\*{4}@host/path `, 'm'));
  });

  test('is masked as a whole if it is not a URL', () => {
    const text = describeConfig({ PAYMENT_API_KEY: 'pay-key', SHIPPING_API_KEY_FILE: '/nowhere' });
    expect(text).toMatch(/^PAYMENT_API_KEY +\*{4} +environment /m);
    expect(text).toMatch(/^SHIPPING_API_KEY +not valid +file /m);
    expect(text).not.toContain('pay-key');
  });
});

test('the list of settings shows the values in force, and what they would be otherwise', () => {
  const text = describeConfig({ PORT: '8080', RELAY: 'off', HOST: '' });
  expect(text).toMatch(/^PORT +8080 +environment .*Default: 3000\.$/m);
  expect(text).toMatch(/^RELAY +off +environment .*Default: on\.$/m);
  expect(text).toMatch(/^HOST +127\.0\.0\.1 +default /m);
});

/** A file with this text, at `path`. `await using` deletes it. */
async function fileOf(text: string) {
  const folder = await mkdtempDisposable(join(tmpdir(), 'settings-'));
  const path = join(folder.path, 'secret');
  await writeFile(path, text);
  return { path, [Symbol.asyncDispose]: () => folder.remove() };
}

function problemsOf(env: Readonly<Record<string, string>>): readonly string[] {
  try {
    readConfig({ DATABASE_URL, ...env });
  } catch (error) {
    if (error instanceof ConfigInvalid) return error.problems;
    throw error;
  }
  return [];
}
