declare module 'kafkajs/src/network/requestQueue/index.js' {
  class RequestQueue {
    pending: unknown[];
    scheduleCheckPendingRequests: (this: RequestQueue) => void;
  }
  export default RequestQueue;
}

declare module 'kafkajs/src/protocol/requests/metadata/index.js' {
  type Metadata = Readonly<{
    topicMetadata: readonly Readonly<{ partitionMetadata: readonly unknown[] }>[];
  }>;
  type Response = {
    decode: (bytes: Buffer) => Promise<Metadata>;
    /** Throws on an error in it. */
    parse: (metadata: Metadata) => Promise<Metadata>;
  };
  const requests: Readonly<{
    versions: readonly string[];
    protocol(
      of: Readonly<{ version: string }>,
    ): (request: Readonly<{ topics: readonly string[] }>) => Readonly<{ response: Response }>;
  }>;
  export default requests;
}
