/** What a person needs once everything runs. */
export type Running = Readonly<{
  seconds: string;
  url: string;
  database: string;
  brokers: string;
  /** Why there is no broker, where `brokers` is empty. */
  withoutKafka: string | undefined;
  /** Of the payment and shipping providers. */
  providers: string;
}>;

const ORDER = {
  customerId: 'c-1',
  currency: 'EUR',
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
};

/** The text that `npm start` ends with: where things are, and a first order to paste. */
export function welcome(running: Running): string {
  const { seconds, url, database, brokers, withoutKafka, providers } = running;
  const next = withoutKafka
    ? `Events wait in the outbox until there is a broker. Mend what is said of Kafka above (it takes
Java 17 and Maven) and start again, or set KAFKA_BROKERS, or use docker compose up -d --build.`
    : `See its event in Kafka:

  npm run tail`;
  return `
Ready in ${seconds} s.

  Service   ${url}
  Docs      ${url}/docs
  Metrics   ${url}/metrics
  Postgres  ${database}
  Kafka     ${brokers || `none: ${withoutKafka}`}
  Providers ${providers}

Place an order:

  curl -si ${url}/v1/orders -H 'content-type: application/json' \\
    -d '${JSON.stringify(ORDER)}'

Or stock up, and let it be paid and shipped by itself:

  curl -s -X PUT ${url}/v1/stock/book -H 'content-type: application/json' -d '{"onHand":10}'
  curl -si ${url}/v1/orders -H 'content-type: application/json' \\
    -d '${JSON.stringify({ ...ORDER, fulfilment: 'automatic' })}'

${next}

Ctrl-C ends it all; what was stored stays.
`;
}
