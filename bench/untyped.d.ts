// Peers without types.

declare module 'autocannon'
declare module 'connect-pg-simple'
declare module 'connect-redis'
declare module 'cookie-session'
declare module 'express'
declare module 'express-session'
declare module 'session-file-store'
