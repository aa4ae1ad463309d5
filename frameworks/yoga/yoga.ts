// A schema with a cart, a login and a logout, and its server on node:http and on Fetch.

import { createServer, type Server } from 'node:http'
import { createSchema, createYoga, type YogaInitialContext } from 'graphql-yoga'
import { type SessionManager, session } from 'keepsake'
import { forNode } from 'keepsake/node'

type Fields = { cart: string[] }

/** The work between the session and its change. */
export const slow = { work: async (): Promise<unknown> => undefined }

const schema = createSchema<YogaInitialContext>({
  typeDefs: /* GraphQL */ `
    type Query {
      cart: [String!]!
      owner: String
    }
    type Mutation {
      login(name: String!): String
      add(item: String!): Int!
      fail: Int
      logout: Boolean!
    }
  `,
  resolvers: {
    Query: {
      cart: async (_parent, _args, context) => (await session<Fields>(context)).get('cart') ?? [],
      owner: async (_parent, _args, context) => (await session(context)).owner,
    },
    Mutation: {
      async login(_parent, { name }: { name: string }, context) {
        const s = await session(context)
        s.login(name)
        return s.owner
      },
      async add(_parent, { item }: { item: string }, context) {
        const s = await session<Fields>(context)
        await slow.work()
        s.update('cart', (cart = []) => [...cart, item])
        return s.get('cart')?.length
      },
      async fail(_parent, _args, context) {
        const s = await session<Fields>(context)
        s.update('cart', (cart = []) => [...cart, 'before the error'])
        throw new Error('The resolver failed.')
      },
      async logout(_parent, _args, context) {
        const s = await session(context)
        s.invalidate()
        return true
      },
    },
  },
})

const createApplication = () => createYoga({ schema, landingPage: false, logging: false })

export const onNode = (manager: SessionManager): Server => {
  const sessions = forNode(manager)
  const yoga = createApplication()
  return createServer((req, res) => {
    sessions(req, res)
    yoga(req, res)
  })
}

export const onFetch = (manager: SessionManager) => {
  const yoga = createApplication()
  return manager((request: Request) => yoga.fetch(request))
}
