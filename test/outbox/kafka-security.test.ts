import { randomUUID } from 'node:crypto';
import { copyFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import kafkajs from 'kafkajs';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { KafkaConnection } from '#src/outbox/kafka-connection.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { startSecureKafka } from '#test/support/secure-kafka.ts';
import type { SecureKafka } from '#test/support/secure-kafka.ts';
import { PASSWORDS } from '#test/support/secure-listeners.ts';
import { startService } from '#test/support/service.ts';
import { quiet, testPublishers } from './outbox-fixture.ts';

const TIMEOUT_MS = 20_000;
const MECHANISMS = ['plain', 'scram-sha-256', 'scram-sha-512'] as const;

let kafka: SecureKafka;
const publishers = await testPublishers();

describe.skipIf(skipReason('kafka'))('a broker with TLS and logins', () => {
  beforeAll(async () => {
    kafka = await startSecureKafka();
  });
  afterAll(() => kafka[Symbol.asyncDispose]());
  afterEach(() => vi.unstubAllEnvs());

  describe.each(publishers)('with $client', ({ client, create }) => {
    const publisherFor = (connection: KafkaConnection) =>
      create({ connection, newTopic: { partitions: 1, replication: 1 }, log: quiet });

    /** What opening a topic and sending to it leads to, on new connections. */
    const tryOut = async (connection: KafkaConnection) => {
      const publisher = publisherFor(connection);
      const topic = `test-${randomUUID()}`;
      const opened = await publisher.openTopic(topic).then(
        () => 'opened',
        (error: Error) => error.message,
      );
      const sent = await publisher.publish(requestTo(topic, 'secret value'));
      await publisher.close();
      return { opened, sent };
    };
    /** Both attempts fail for this reason, and no text contains a secret. */
    const expectFailure = async (connection: KafkaConnection, reason: RegExp) => {
      const { opened, sent } = await tryOut(connection);
      expect(opened).toMatch(reason);
      expect(sent).toEqual({ kind: 'unknown', reason: expect.stringMatching(reason) });
      expect(JSON.stringify([opened, sent])).not.toMatch(/secret|PRIVATE KEY|\n/);
    };
    const tlsTo = (listener: Parameters<SecureKafka['brokers']>[0]): KafkaConnection => ({
      brokers: kafka.brokers(listener),
      tls: { caFile: kafka.authority.caFile },
    });

    test.each(MECHANISMS)('takes a login with %s', async (mechanism) => {
      const { opened, sent } = await tryOut(kafka.connection(mechanism));
      expect({ opened, sent }).toEqual({ opened: 'opened', sent: { kind: 'acked' } });
    });

    test.each(MECHANISMS)('refuses a wrong password with %s', async (mechanism) => {
      const sasl = { mechanism, username: 'orders', password: 'wrong-secret' };
      await expectFailure(
        { ...kafka.connection(), sasl },
        /^the broker refuses the login: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD \(.*SASL/,
      );
    });

    test('wants a login', async () => {
      await expectFailure(
        tlsTo('login'),
        /^(?!cannot create).*closed.*: if the broker wants a login, set KAFKA_SASL_MECHANISM$/i,
      );
    });

    test('takes no login on a listener without', async () => {
      const { sasl } = kafka.connection();
      await expectFailure(
        { brokers: kafka.brokers('plaintext'), ...(sasl && { sasl }) },
        /^the broker takes no login on this port: unset KAFKA_SASL_MECHANISM/,
      );
    });

    test('is not trusted with a certificate of an unknown authority', async () => {
      const reason =
        /^the broker's certificate is from an authority that is not trusted: check KAFKA_TLS_CA_FILE/;
      await expectFailure({ ...kafka.connection(), tls: { caFile: kafka.foreign.caFile } }, reason);
      await expectFailure({ ...kafka.connection(), tls: {} }, reason);
    });

    test('is not trusted with a certificate for another host, whatever the environment says', async () => {
      vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
      await expectFailure(
        tlsTo('elsewhere'),
        new RegExp(
          `^the broker's certificate is for another host: .*${kafka.host}.* not in the cert's`,
        ),
      );
    });

    test('is not trusted with an expired certificate', async () => {
      await expectFailure(tlsTo('expired'), /^the broker's certificate, .*, has expired/);
    });

    test('says nothing that TLS understands on a plaintext port', async () => {
      await expectFailure(
        { ...kafka.connection(), brokers: kafka.brokers('plaintext') },
        /^the broker ended the TLS handshake: its port may be one for plaintext/,
      );
    });

    test('is told apart from one in plaintext by its first response', async () => {
      const { brokers, sasl } = kafka.connection();
      for (const connection of [{ brokers }, { brokers, ...(sasl && { sasl }) }]) {
        await expectFailure(connection, /the broker expects TLS.* set KAFKA_TLS=on/);
      }
    });

    test('takes our certificate, and says when it wants another one', async () => {
      const { brokers, tls } = tlsTo('mutual');
      const own = await kafka.authority.sign('orders');
      const { opened, sent } = await tryOut({ brokers, tls: { ...tls, ...own } });
      expect({ opened, sent }).toEqual({ opened: 'opened', sent: { kind: 'acked' } });

      await expectFailure(
        { brokers, ...(tls && { tls }) },
        /^the broker wants a certificate: set KAFKA_TLS_CERT_FILE/,
      );
      const expired = await kafka.authority.sign('orders', { days: -1 });
      await expectFailure(
        { brokers, tls: { ...tls, ...expired } },
        /^the broker refuses KAFKA_TLS_CERT_FILE, which expired at 20/,
      );
      await expectFailure(
        { brokers, tls: { ...tls, ...(await kafka.foreign.sign('orders')) } },
        /^the broker refuses KAFKA_TLS_CERT_FILE: it may not trust its authority/,
      );
    });

    test('may get files that changed since the start, and a file that is gone is named', async () => {
      const { brokers } = tlsTo('mutual');
      const [certFile, keyFile] = ['own.pem', 'own.key'].map((name) => join(kafka.folder, name));
      if (!certFile || !keyFile) throw new Error('there are two names');
      const replace = async (by: Readonly<{ certFile: string; keyFile: string }>) => {
        await copyFile(by.certFile, certFile);
        await copyFile(by.keyFile, keyFile);
      };
      await replace(await kafka.authority.sign('orders', { days: -1 }));
      const caFile = kafka.authority.caFile;
      const publisher = publisherFor({ brokers, tls: { caFile, certFile, keyFile } });
      const topic = `test-${randomUUID()}`;
      await expect(publisher.openTopic(topic)).rejects.toThrow('which expired at');
      await replace(await kafka.authority.sign('orders'));
      await publisher.openTopic(topic);
      await expect(publisher.publish(requestTo(topic, '1'))).resolves.toEqual({ kind: 'acked' });
      await rm(certFile);
      publisher.abort();
      await expect(publisher.publish(requestTo(topic, '2'))).resolves.toEqual({
        kind: 'unknown',
        reason: expect.stringContaining('KAFKA_TLS_CERT_FILE cannot be read any more (ENOENT)'),
      });
      await publisher.close();
    });

    test('may change its certificate while we run', async () => {
      const publisher = publisherFor(kafka.connection());
      const topic = `test-${randomUUID()}`;
      await publisher.openTopic(topic);
      await publisher.publish(requestTo(topic, 'before'));
      await kafka.renew(await kafka.foreign.sign('broker'));
      // The connection stays. Only a new one gets to see the new certificate.
      await expect(publisher.publish(requestTo(topic, 'open'))).resolves.toEqual({ kind: 'acked' });
      publisher.abort();
      await expect(publisher.publish(requestTo(topic, 'distrusted'))).resolves.toMatchObject({
        kind: 'unknown',
        reason: expect.stringContaining('not trusted'),
      });
      await kafka.renew(await kafka.authority.sign('broker'));
      await expect(publisher.publish(requestTo(topic, 'after'))).resolves.toEqual({
        kind: 'acked',
      });
      await publisher.close();
      const messages = await readTopic(topic, {
        brokers: kafka.brokers('plaintext'),
        until: (all) => all.some(({ value }) => value === 'after'),
      });
      expect(messages.map(({ value }) => value)).toEqual(['before', 'open', 'after']);
    });

    test('denies a topic: commands go on, events wait, and go out once it is allowed', async () => {
      await using db = await createTestDatabase();
      const topic = `test-${randomUUID()}`;
      await kafka.admin.createTopics({
        topics: [{ topic, numPartitions: 2 }],
        waitForLeaders: false, // on a busy machine this fails where the broker is late
      });
      await using service = await startService({
        databaseUrl: db.url,
        brokers: kafka.brokers('login'),
        env: {
          KAFKA_CLIENT: client,
          KAFKA_TOPIC: topic,
          KAFKA_TLS: 'on',
          KAFKA_TLS_CA_FILE: kafka.authority.caFile,
          KAFKA_SASL_MECHANISM: 'scram-sha-256',
          KAFKA_SASL_USERNAME: 'guest',
          KAFKA_SASL_PASSWORD: PASSWORDS.guest,
        },
      });
      const place = async () => (await service.api.placeOrder()).orderId;
      const health = async () => (await service.api.request('GET', '/readyz')).text;
      const denied =
        /the broker denies it: our user needs the rights Write and Create on the topic/;
      const first = await place();
      await eventually(async () => denied.test(await health()));

      await allow(kafka, topic, kafkajs.AclOperationTypes.DESCRIBE);
      const second = await place();
      const log = () => service.log().join('\n');
      await eventually(() => log().includes('publishing failed, events wait'));
      await eventually(async () => denied.test(await health()));
      expect(log()).toMatch(denied);
      expect(log()).not.toContain(PASSWORDS.guest);

      await allow(kafka, topic, kafkajs.AclOperationTypes.WRITE);
      const messages = await readTopic(topic, {
        brokers: kafka.brokers('plaintext'),
        until: (all) => all.length === 2,
      });
      expect(new Set(messages.map(({ key }) => key))).toEqual(new Set([first, second]));
      await eventually(async () => (await db.query('select from outbox_events')).length === 0);
      expect(await db.query('select from outbox_parked')).toEqual([]);
    });
  });
});

describe.skipIf(skipReason('postgres'))('a login without TLS', () => {
  test('over the network is in the log', async () => {
    await using db = await createTestDatabase();
    await using service = await startService({
      databaseUrl: db.url,
      brokers: ['kafka.invalid:9092'],
      env: {
        KAFKA_SASL_MECHANISM: 'scram-sha-256',
        KAFKA_SASL_USERNAME: 'orders',
        KAFKA_SASL_PASSWORD: PASSWORDS.orders,
      },
    });
    expect(service.log().join('\n')).toMatch(/the login at Kafka .* without TLS/);
  });
});

function requestTo(topic: string, value: string) {
  const messages = [{ key: 'key', value, headers: {} }];
  return { topic, partition: 0, messages, timeoutMs: TIMEOUT_MS };
}

async function allow(
  { admin }: SecureKafka,
  topic: string,
  operation: kafkajs.AclOperationTypes,
): Promise<void> {
  await admin.createAcls({
    acl: [
      {
        resourceType: kafkajs.AclResourceTypes.TOPIC,
        resourceName: topic,
        resourcePatternType: kafkajs.ResourcePatternTypes.LITERAL,
        principal: 'User:guest',
        host: '*',
        operation,
        permissionType: kafkajs.AclPermissionTypes.ALLOW,
      },
    ],
  });
}
