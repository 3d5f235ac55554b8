-- all columns
SELECT *, [ID] AS [consilium unique id] FROM [HIS].[VISITS]

-- named columns
SELECT [age], [sex], [ID] AS [consilium unique id] FROM [HIS].[VISITS]

-- listed columns
SELECT [Creatinine], [odd]]name], [Patient] AS [consilium unique id] FROM [HIS].[Lab results]

-- numbers
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE ((([AGE] >= -1.5e2) AND ([AGE] < 0.5)) OR (NOT ([AGE] <> 3)))

-- truth
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE ([ALIVE] = 1)

-- a text
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE ([SEX] = 'O''Brien 50%')

-- a text beyond ASCII
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE (([WARD] = N'苏州 𠮷') AND ([SEX] <> N'女'))

-- patterns
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE (([WARD] LIKE 'A[[]1-3]_%') AND (NOT ([SEX] LIKE 'f%')))

-- a list
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE (([WARD] IN ('a', 'b')) AND (NOT ([AGE] IN (1, 2))))

-- between
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE (([AGE] BETWEEN 1 AND 2) AND (NOT ([AGE] BETWEEN 3 AND 4)))

-- null
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE (([AGE] IS NULL) OR (NOT ([SEX] IS NULL)))

-- a day
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE ([SEEN] >= CAST('2024-05-06' AS date))

-- moments
SELECT [age], [ID] AS [consilium unique id] FROM [HIS].[VISITS] WHERE ((([SEEN] < CAST('2024-05-06 07:08:00' AS datetime2(7))) AND ([SEEN] > CAST('2024-05-06 00:00:00' AS datetime2(7)))) AND ([SEEN] <> CAST('2024-05-06 07:08:09.125' AS datetime2(7))))

-- own: with, join, window
WITH [a] AS (SELECT [id] AS [id], [age] - AVG([age]) OVER (PARTITION BY [sex]) AS [z] FROM [HIS].[VISITS]) SELECT [a].[z], [a].[z], COALESCE([v].[age], 0) FROM [a] JOIN [HIS].[VISITS] AS [v] ON [a].[id] = [v].[id] WHERE [v].[ward] = N'苏州' ORDER BY 1

-- own: with, join, window, as it is read
WITH [a] AS (SELECT [id] AS [id], [age] - AVG([age]) OVER (PARTITION BY [sex]) AS [z] FROM [HIS].[VISITS]) 
, consilium_rows (c0, c1, c2) AS (
SELECT [a].[z], [a].[z], COALESCE([v].[age], 0) FROM [a] JOIN [HIS].[VISITS] AS [v] ON [a].[id] = [v].[id] WHERE [v].[ward] = N'苏州'
) SELECT TOP (1001) c0 AS c0, c1 AS c1, c2 AS c2 FROM consilium_rows

-- own: the first rows
SELECT TOP 5 [age] FROM [HIS].[VISITS] ORDER BY [age]

-- own: the first rows, as it is read
WITH consilium_rows (c0) AS (
SELECT TOP 5 [age] FROM [HIS].[VISITS] ORDER BY [age]
) SELECT TOP (1001) c0 AS c0 FROM consilium_rows

-- own: groups
SELECT [sex], COUNT(DISTINCT [id]), AVG([age]) FROM [HIS].[VISITS] GROUP BY [sex] HAVING COUNT(*) > 3

-- own: groups, as it is read
WITH consilium_rows (c0, c1, c2) AS (
SELECT [sex], COUNT(DISTINCT [id]), AVG([age]) FROM [HIS].[VISITS] GROUP BY [sex] HAVING COUNT(*) > 3
) SELECT TOP (1001) c0 AS c0, c1 AS c1, c2 AS c2 FROM consilium_rows

-- own: functions
SELECT CASE WHEN [age] > 65 THEN 1 ELSE 0 END, LOWER([sex]), SUBSTRING([ward], 1, 2), LEN([ward]), CAST([age] AS NUMERIC(8, 2)), CAST([ward] AS VARCHAR(9)), DATEPART(YEAR, [seen]), SQRT([age]), [sex] + [ward] FROM [HIS].[VISITS]

-- own: functions, as it is read
WITH consilium_rows (c0, c1, c2, c3, c4, c5, c6, c7, c8) AS (
SELECT CASE WHEN [age] > 65 THEN 1 ELSE 0 END, LOWER([sex]), SUBSTRING([ward], 1, 2), LEN([ward]), CAST([age] AS NUMERIC(8, 2)), CAST([ward] AS VARCHAR(9)), DATEPART(YEAR, [seen]), SQRT([age]), [sex] + [ward] FROM [HIS].[VISITS]
) SELECT TOP (1001) c0 AS c0, c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, c6 AS c6, c7 AS c7, c8 AS c8 FROM consilium_rows

-- own: union
SELECT [age] FROM [HIS].[VISITS] UNION ALL SELECT [age] FROM [HIS].[VISITS] ORDER BY 1

-- own: union, as it is read
WITH consilium_rows (c0) AS (
SELECT [age] FROM [HIS].[VISITS] UNION ALL SELECT [age] FROM [HIS].[VISITS]
) SELECT TOP (1001) c0 AS c0 FROM consilium_rows

-- every type, as it is read
WITH consilium_rows (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, c22, c23, c24, c25, c26, c27, c28, c29) AS (
SELECT *, [ID] AS [consilium unique id] FROM [HIS].[VISITS]
) SELECT TOP (1001) c0 AS c0, c1 AS c1, c2 AS c2, c3 AS c3, CAST(c4 AS tinyint) AS c4, c5 AS c5, c6 AS c6, CONVERT(varchar(30), c7, 2) AS c7, CONVERT(varchar(30), c8, 2) AS c8, CONVERT(varchar(41), c9) AS c9, CONVERT(varchar(41), c10) AS c10, CONVERT(varchar(41), c11) AS c11, CONVERT(varchar(10), c12, 23) AS c12, CONVERT(varchar(16), c13, 121) AS c13, CONVERT(varchar(23), c14, 121) AS c14, CONVERT(varchar(19), c15, 120) AS c15, CONVERT(varchar(27), c16, 121) AS c16, CONVERT(varchar(27), CAST(SWITCHOFFSET(c17, '+00:00') AS datetime2(7)), 121) + '+00' AS c17, CAST(c18 AS nvarchar(max)) AS c18, CAST(c19 AS nvarchar(max)) AS c19, CAST(c20 AS nvarchar(max)) AS c20, CAST(c21 AS nvarchar(max)) AS c21, CAST(c22 AS nvarchar(max)) AS c22, CAST(c23 AS nvarchar(max)) AS c23, CAST(c24 AS nvarchar(max)) AS c24, c25 AS c25, c26 AS c26, c27 AS c27, c28 AS c28, LOWER(CONVERT(varchar(36), c29)) AS c29 FROM consilium_rows

-- two columns, as they are read
WITH consilium_rows (c0, c1, c2, c3) AS (
SELECT *, [ID] AS [consilium unique id] FROM [HIS].[VISITS]
) SELECT TOP (1001) c3 AS c3, c0 AS c0 FROM consilium_rows

-- no column, as it is read
WITH consilium_rows (c0, c1, c2, c3) AS (
SELECT *, [ID] AS [consilium unique id] FROM [HIS].[VISITS]
) SELECT TOP (1001) 1 FROM consilium_rows
