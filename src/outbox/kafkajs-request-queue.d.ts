declare module 'kafkajs/src/network/requestQueue/index.js' {
  class RequestQueue {
    pending: unknown[];
    scheduleCheckPendingRequests: (this: RequestQueue) => void;
  }
  export default RequestQueue;
}
