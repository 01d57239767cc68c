/** What peers may use of one process, in total and on each connection, unless the settings say otherwise. */
export const CONNECTION_LIMITS = {
  /** At the limit a new connection replaces the one that has been idle longest, or else gets 503. */
  connectionsMax: 4_000,
  /** The same for the connections of one address. */
  perAddressMax: 1_000,
  /** Requests of one connection that wait for their responses. One more, and it ends after these. */
  pipelinedMax: 32,
  /** More than 200 items of the longest fields need. */
  bodyBytesMax: 256 * 1024,
  /** Bytes of the bodies of all requests that wait for their responses. */
  heldBytesMax: 32 * 1024 * 1024,
  /** For the headers of a request to arrive. */
  headersTimeoutMs: 10_000,
  /** For a whole request to arrive. */
  requestTimeoutMs: 30_000,
  /** For the next request of a connection to begin. Longer than that of a load balancer in front (60 s). */
  keepAliveTimeoutMs: 72_000,
  /** For a connection on which nothing moves. */
  connectionTimeoutMs: 90_000,
  /** For the peer to receive a response. */
  responseTimeoutMs: 60_000,
  /** For the peer to close the connection after the last response. */
  lingerTimeoutMs: 2_000,
  /** For requests in progress to end when the server closes. */
  closeTimeoutMs: 5_000,
};

export type ConnectionLimits = Readonly<typeof CONNECTION_LIMITS>;
