import { IncomingMessage } from 'node:http';

/**
 * A request whose parsing can be broken off. Node makes every request of a packet, thousands of them,
 * before it comes to answer the first; the one way to stop it in between is to take a request for an
 * upgrade. Node asks about that only where the headers name one; this class has it ask every time.
 */
export class IncomingRequest extends IncomingMessage {
  isAsked = false;
  isTooMany = false;

  /** Read by Node, before and after it asks. CONNECT is an upgrade without being asked about. */
  get upgrade(): boolean {
    return !this.isAsked || this.isTooMany;
  }

  /** What Node writes here is the answer that is kept already. */
  set upgrade(_: boolean | null) {}
}

/**
 * For `shouldUpgradeCallback` of the server: after a request of which `isTooMany` says so, nothing more of
 * the connection is parsed, and the server's `upgrade` event has its socket.
 */
export function breakOff(isTooMany: (request: IncomingMessage) => boolean) {
  return (request: IncomingMessage): boolean => {
    if (!(request instanceof IncomingRequest)) return false;
    request.isAsked = true;
    request.isTooMany = isTooMany(request);
    return request.isTooMany;
  };
}
